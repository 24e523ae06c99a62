"""The two services: train and xai_worker; neither imports the other."""
