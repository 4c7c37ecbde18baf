"""Networks and distributions of the kinds that people put into their policies."""

import torch as th
from stable_baselines3.common.distributions import DiagGaussianDistribution, Distribution, SquashedDiagGaussianDistribution
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import nn


class Extractor(BaseFeaturesExtractor):
    """Four features of vectors; subclasses say how."""

    def __init__(self, observation_space, features_dim=4):
        super().__init__(observation_space, features_dim)
        self.linear = nn.Linear(observation_space.shape[0], features_dim)
        self.make()

    def make(self):
        pass


class Lstm(Extractor):
    def make(self):
        self.rnn = nn.LSTM(1, 4, batch_first=True)

    def forward(self, x):
        return self.rnn(x[..., None])[0][:, -1]


class Gru(Extractor):
    def make(self):
        self.rnn = nn.GRU(1, 4, num_layers=2, batch_first=True)

    def forward(self, x):
        return self.rnn(x[..., None])[0].sum(1)


class InPlace(Extractor):
    def forward(self, x):
        out = th.zeros(len(x), 4)
        out[:] = self.linear(x)
        return out


class Checked(Extractor):
    def forward(self, x):
        assert not th.isnan(x).any()
        return self.linear(x)


class Branches(Extractor):
    """Each observation goes through one of two layers."""

    def make(self):
        self.other = nn.Linear(*self.linear.weight.shape[::-1])

    def forward(self, x):
        out = th.empty(len(x), 4)
        positive = x[:, 0] > 0
        if positive.any():
            out[positive] = self.linear(x[positive])
        if not positive.all():
            out[~positive] = self.other(x[~positive])
        return out


class Rows(Extractor):
    def forward(self, x):
        return th.cat([self.linear(row[None]) / (1 + row.abs().sum().item()) for row in x])


class Transformer(Extractor):
    """Its attention is fused, and torch.func loops over parameter sets itself."""

    def make(self):
        self.layer = nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0, batch_first=True)

    def forward(self, x):
        return self.layer(self.linear(x)[:, None])[:, 0]


class Distances(Extractor):
    def forward(self, x):
        return th.cdist(self.linear(x)[:, None], th.eye(4)[None].expand(len(x), 4, 4))[:, 0]


class _OnceOnly(th.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    @th.autograd.function.once_differentiable
    def backward(ctx, gradient):
        return gradient.clone()


class Once(Extractor):
    def forward(self, x):
        return _OnceOnly.apply(self.linear(x))


class BatchMean(Extractor):
    def forward(self, x):
        return self.linear(x) / (1 + x.abs().mean().item())


class Masked(Extractor):
    def forward(self, x):
        return self.linear(x) * x[x > 0].mean()


class SortedBatch(Extractor):
    def forward(self, x):
        return self.linear(x.sort(0).values)


class Remembers(Extractor):
    def forward(self, x):
        self.state = getattr(self, "state", 0.0) + 0.1
        return self.linear(x) + self.state


class Random(Extractor):
    def forward(self, x):
        return nn.functional.dropout(self.linear(x))


# what torch.func.vmap cannot run, or runs otherwise
WITHOUT_VMAP = [Lstm, Gru, InPlace, Checked, Branches, Rows]
ONCE_DIFFERENTIABLE = [Transformer, Distances, Once]
OF_THE_BATCH = [BatchMean, Masked, SortedBatch]


class InnerDistribution(Distribution):
    """A distribution of torch, of the two numbers per dimension that a network gives."""

    def __init__(self, n):
        super().__init__()
        self.n = n

    def inner(self, a, b):
        raise NotImplementedError

    def proba_distribution_net(self, *args, **kwargs):
        raise NotImplementedError

    def proba_distribution(self, outputs):
        self.distribution = self.inner(*outputs.reshape(len(outputs), 2, -1).unbind(1))
        return self

    def log_prob(self, actions):
        return self.distribution.log_prob(actions).sum(1)

    def entropy(self):
        return self.distribution.entropy().sum(1)

    def sample(self):
        return self.distribution.sample()

    def mode(self):
        return self.distribution.mean

    def actions_from_params(self, *args, **kwargs):
        raise NotImplementedError

    log_prob_from_params = actions_from_params


class BetaDistribution(InnerDistribution):
    def inner(self, a, b):
        return th.distributions.Beta(1 + nn.functional.softplus(a), 1 + nn.functional.softplus(b))


class LaplaceDistribution(InnerDistribution):
    def inner(self, a, b):
        return th.distributions.Laplace(a, b.exp())


class StudentDistribution(InnerDistribution):
    def inner(self, a, b):
        return th.distributions.StudentT(4.0, a, b.exp())


class WithTwoOutputs(ActorCriticPolicy):
    """A policy whose action net gives two numbers per dimension of the action."""

    made = LaplaceDistribution

    def _build(self, lr_schedule):
        super()._build(lr_schedule)
        n = self.action_space.shape[0]
        self.action_net = nn.Linear(self.mlp_extractor.latent_dim_pi, 2 * n)
        del self.log_std
        self.action_dist = type(self).made(n)
        self.optimizer = self.optimizer_class(self.parameters(), lr=lr_schedule(1))

    def _get_action_dist_from_latent(self, latent_pi):
        return self.action_dist.proba_distribution(self.action_net(latent_pi))


def with_distribution(distribution):
    """A policy with a distribution of two numbers per dimension."""
    return type(f"With{distribution.__name__}", (WithTwoOutputs,), {"made": distribution})


class Halved(DiagGaussianDistribution):
    """Actions are half of what SB3's distribution draws, which its inner type does not tell."""

    def sample(self):
        return super().sample() / 2

    def log_prob(self, actions):
        return super().log_prob(actions * 2) + self.action_dim * th.log(th.tensor(2.0))


def with_gaussian(distribution):
    """A policy with a subclass of SB3's normal distribution."""

    class Policy(ActorCriticPolicy):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            self.action_dist = distribution(self.action_space.shape[0])

    return Policy


Squashed = with_gaussian(SquashedDiagGaussianDistribution)
WITHOUT_KIND = [*map(with_distribution, (BetaDistribution, LaplaceDistribution, StudentDistribution)), with_gaussian(Halved)]
