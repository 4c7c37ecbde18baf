"""The value net is regressed on what followed each played step."""

import numpy as np
import torch as th
from toys import point_vec, rollout_of, tiny

from sb3_sgmrl import SGMRL
from sb3_sgmrl.gradient.critic import fit_critic

GAMMA = 0.9


def squared_error(model, rollout):
    """The mean over the played steps of all episodes, phases and tasks."""
    errors = []
    for batch in (phase.batch for trace in rollout.traces for phase in trace):
        for observations, rewards, length in zip(batch.observations, batch.rewards, batch.mask.sum(1), strict=True):
            to_go = [sum(GAMMA ** (k - t) * rewards[k] for k in range(t, length)) for t in range(length)]
            values = model.policy.predict_values(th.as_tensor(observations[:length]))[:, 0]
            errors.append((values - th.as_tensor(np.array(to_go), dtype=th.float32)) ** 2)
    return th.cat(errors).mean()


def test_the_critic_descends_the_squared_error_to_the_rewards_to_go():
    model = tiny(SGMRL, point_vec(2, end=0.2), baseline="critic")
    rollout = rollout_of(model)
    model.policy.optimizer = th.optim.SGD(model.policy.parameters(), lr=0.1)
    of_critic = {name: p for name, p in model.policy.named_parameters() if "value" in name}
    assert len(of_critic) == 4  # weight and bias of two layers
    for n_steps in (1, 3):
        expected = {name: p.detach().clone() for name, p in model.policy.named_parameters()}
        loss = squared_error(model, rollout)
        if n_steps == 1:
            for (name, _), gradient in zip(of_critic.items(), th.autograd.grad(loss, of_critic.values()), strict=True):
                expected[name] -= 0.1 * gradient
        found = fit_critic(model.functional, rollout.traces, GAMMA, n_steps)
        np.testing.assert_allclose(found, loss.item(), rtol=1e-5)
        for name, p in model.policy.named_parameters():
            if n_steps == 1 or name not in of_critic:
                th.testing.assert_close(p.detach(), expected[name])
        assert squared_error(model, rollout) < loss
