"""The nine stages, one file each; `services.train.pipeline` has their order."""
