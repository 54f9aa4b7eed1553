"""A siamese network: do two images show the same class? In PyTorch."""

import torch
from torch import nn, optim
from torch.utils.data import DataLoader, TensorDataset

from tests.programs.synthetic import images


class SiameseNetwork(nn.Module):
    def __init__(self):
        super().__init__()
        self.trunk = nn.Sequential(
            nn.Conv2d(1, 6, 3, stride=2, bias=False),
            nn.BatchNorm2d(6),
            nn.ReLU(inplace=True),
            nn.Conv2d(6, 8, 3),
            nn.AdaptiveAvgPool2d(1),
        )
        self.fc = nn.Sequential(nn.Linear(16, 12), nn.ReLU(inplace=True), nn.Linear(12, 1))
        self.apply(self.init_weights)

    def init_weights(self, m):
        if isinstance(m, nn.Linear):
            nn.init.xavier_uniform_(m.weight)
            nn.init.constant_(m.bias, 0.01)

    def forward_once(self, x):
        return torch.flatten(self.trunk(x), 1)

    def forward(self, input1, input2):
        output1, output2 = self.forward_once(input1), self.forward_once(input2)
        output = self.fc(torch.cat((output1, output2), 1))
        return torch.sigmoid(output).squeeze(1)


def main(cast=lambda x: x):
    torch.manual_seed(1)
    inputs, labels = images(160, 12)
    same = torch.tensor(labels[:80] == labels[80:]).float()
    dataset = TensorDataset(torch.tensor(inputs[:80]), torch.tensor(inputs[80:]), same)
    model = cast(SiameseNetwork())
    criterion = nn.BCELoss()
    optimizer = optim.Adadelta(model.parameters(), lr=1.0)
    loader = DataLoader(dataset, batch_size=8, shuffle=True)
    for _ in range(5):
        for images_1, images_2, targets in loader:
            optimizer.zero_grad()
            outputs = model(cast(images_1), cast(images_2))
            loss = criterion(outputs, cast(targets))
            loss.backward()
            optimizer.step()
            yield loss.item()
    return model.state_dict()
