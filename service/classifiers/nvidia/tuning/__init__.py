"""Fine-tuning NVIDIA's classifier on labelled prompts: `armwise classifier tune`."""
