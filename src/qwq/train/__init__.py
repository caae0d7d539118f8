"""Training in all its stages: pretraining, SFT, reward model, RL. `losses` is pure maths; `rl` is the loop to read first."""
