from sb3_sgmrl.maml.maml import MAML

__all__ = ["MAML"]
