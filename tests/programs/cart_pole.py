"""The cart-pole of Barto, Sutton and Anderson (1983), in a few lines of NumPy."""

import math

import numpy as np


class CartPole:
    """A pole on a cart that is pushed to the left (0) or to the right (1) at every step."""

    def __init__(self, seed: int) -> None:
        self.rng = np.random.RandomState(seed)

    def reset(self) -> np.ndarray:
        """The position, velocity, angle and angular velocity at the start of an episode."""
        self.state = self.rng.uniform(-0.05, 0.05, 4)
        return self.state.astype(np.float32)

    def step(self, action: int) -> tuple[np.ndarray, bool]:
        """The state after one fiftieth of a second, and whether the episode is over."""
        _, v, angle, w = self.state
        force = 10.0 if action == 1 else -10.0
        sine, cosine = math.sin(angle), math.cos(angle)
        push = (force + 0.05 * w**2 * sine) / 1.1
        turn = (9.8 * sine - cosine * push) / (0.5 * (4 / 3 - 0.1 * cosine**2 / 1.1))
        accelerated = push - 0.05 * turn * cosine / 1.1
        self.state = self.state + 0.02 * np.array([v, accelerated, w, turn])
        over = abs(self.state[0]) > 2.4 or abs(self.state[2]) > math.radians(12)
        return self.state.astype(np.float32), bool(over)
