"""Small changes to a trained model: LoRA on any family, several side by side, merged when wanted."""
