"""Models that have one fault each, and attacks that do, for the checks of the diagnosis."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from advbench.attacks import PGD, Linf, Perturbation
from advbench.attacks.attack import Attack, Task
from advbench.attacks.query import Access, Record


class Around(nn.Module):
    """A network with something wrong in front of it or behind it."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net


class Broken(Around):
    """No gradient reaches the input."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            return self.net(x)


class Raising(Around):
    """The backward pass fails."""

    def forward(self, x: Tensor) -> Tensor:
        changed = x.exp()
        answer = self.net(changed.log()) + 0 * changed.exp().flatten(1).sum(1, keepdim=True)
        changed.detach().zero_()
        changed.add_(0)
        return answer


class Noisy(Around):
    """Draws from torch's generator."""

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x + 0.3 * torch.randn_like(x))


class NoisyOutside(Around):
    """Draws from numpy's generator, which has no effect worth the name."""

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x) + 0 * np.random.random()


class Probable(Around):
    """Returns probabilities."""

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x).softmax(1)


class Counting(Around):
    """Counts its calls in a buffer."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__(net)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return self.net(x)


class Drifting(Around):
    """Changes a parameter while it answers."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__(net)
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, x: Tensor) -> Tensor:
        answer = self.net(x) * self.scale.detach().clone()
        self.scale.data += 1e-6
        return answer


class Switching(Around):
    """Puts itself into training mode."""

    def forward(self, x: Tensor) -> Tensor:
        self.train()
        return self.net(x)


class Sociable(Around):
    """Looks at who else is in the batch."""

    def forward(self, x: Tensor) -> Tensor:
        return self.net((x - 0.1 * x.mean(0)).clamp(0, 1))


class Optimising(Around):
    """Differentiates while it answers."""

    def forward(self, x: Tensor) -> Tensor:
        with torch.enable_grad():
            images = x.detach().requires_grad_()
            (gradient,) = torch.autograd.grad(self.net(images).amax(1).sum(), images)
        return self.net(x + 1e-3 * gradient.sign())


class Rounding(Around):
    """Pixels of a few levels: the gradient is zero."""

    def forward(self, x: Tensor) -> Tensor:
        return self.net((x * 8).round() / 8)


class Infinite(Around):
    """The gradient of a root at zero."""

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x) + (0 * x).sqrt().flatten(1).sum(1, keepdim=True)


class Backwards(Around):
    """The gradient points the other way."""

    def forward(self, x: Tensor) -> Tensor:
        return self.net(2 * x.detach() - x)


class Lucky(Around):
    """Wrong on every 30th input or so, wherever it is; no gradient says where."""

    def forward(self, x: Tensor) -> Tensor:
        answer = self.net(x)
        sums = x.flatten(1).double().sum(1)
        off = ((16 * x).round() / 16 != x).flatten(1).any(1)
        lucky = off & ((sums * 1e4).frac().abs() < 1 / 30)
        return torch.where(lucky.unsqueeze(1), -answer, answer).detach() + 0 * answer


class Labels(Around):
    """Answers with labels alone, which tell neither gradients nor black boxes anything."""

    def forward(self, x: Tensor) -> Tensor:
        answer = self.net(x)
        return functional.one_hot(answer.argmax(1), answer.shape[1]) + 0 * answer


class OnGrid(Around):
    """The gradient is right at the digits, whose pixels are sixteenths, and nowhere else."""

    def forward(self, x: Tensor) -> Tensor:
        at_home = ((x * 16).round() / 16 == x).flatten(1).all(1).view(-1, 1, 1, 1)
        return self.net(torch.where(at_home, x, 2 * x.detach() - x))


class Steep(Around):
    """The gradient is ten times too long."""

    def forward(self, x: Tensor) -> Tensor:
        return self.net(10 * x - 9 * x.detach())


class Rugged(Around):
    """Waves on every pixel."""

    def forward(self, x: Tensor) -> Tensor:
        return self.net(x + 0.1 * (400 * x).sin())


class Loud(Around):
    """Logits so large that the cross-entropy has no gradient."""

    def forward(self, x: Tensor) -> Tensor:
        return 1000 * self.net(x)


class Ridge(nn.Module):
    """Two classes; the second only where the mean of the pixels is 0.51, give or take 0.002."""

    def forward(self, x: Tensor) -> Tensor:
        lead = 0.002 - (x.flatten(1).mean(1) - 0.51).abs()
        return torch.stack([-lead, lead], 1)


class Moat(nn.Module):
    """Two classes parted by the mean; gradients point away until a pixel is 0.1 off grey."""

    def forward(self, x: Tensor) -> Tensor:
        far = (x - 0.5).abs() > 0.1001
        seen = torch.where(far, x, 2 * x.detach() - x)
        lead = seen.flatten(1).mean(1) - 0.59
        return torch.stack([-lead, lead], 1)


@dataclass(frozen=True, kw_only=True)
class Faulty(Attack):
    """PGD that does something wrong with what it has found."""

    access: ClassVar[Access] = "gradient"
    perturbation: Perturbation = Linf()

    @classmethod
    def examples(cls):
        return cls(), cls()

    @property
    def queries(self) -> int:
        return 21

    def find(self, task: Task, record: Record) -> Record:
        return self.spoilt(PGD(perturbation=self.perturbation, steps=20).find(task, record))

    def spoilt(self, record: Record) -> Record:
        raise NotImplementedError


class Forgetful(Faulty):
    """Returns what it started from."""

    def spoilt(self, record: Record) -> Record:
        return record._replace(p=0 * record.p, success=torch.zeros_like(record.success))


class Overreaching(Faulty):
    """Returns changes that are too large."""

    def spoilt(self, record: Record) -> Record:
        return record._replace(p=1.5 * record.p)


class Boastful(Faulty):
    """Claims a success on every sample."""

    def spoilt(self, record: Record) -> Record:
        return record._replace(success=torch.ones_like(record.success))
