from sb3_sgmrl.emaml.emaml import EMAML

__all__ = ["EMAML"]
