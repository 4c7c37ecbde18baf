from sb3_sgmrl.trpomaml.trpomaml import TRPOMAML

__all__ = ["TRPOMAML"]
