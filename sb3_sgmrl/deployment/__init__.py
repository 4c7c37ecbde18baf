"""From a trained model to a robot: recorded episodes and exported policies."""

from sb3_sgmrl.deployment.export import export_onnx, export_torchscript
from sb3_sgmrl.deployment.guard import GuardedPolicy, guarded_adapt
from sb3_sgmrl.deployment.log_file import load_episodes, save_episodes
from sb3_sgmrl.deployment.recorder import EpisodeRecorder

__all__ = [
    "EpisodeRecorder",
    "GuardedPolicy",
    "export_onnx",
    "export_torchscript",
    "guarded_adapt",
    "load_episodes",
    "save_episodes",
]
