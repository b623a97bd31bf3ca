"""Fine-tuning: model, attention, loss, the LightningModule, logging, and the job itself."""
