"""Training: losses, the shared loop, one script per trained part, recipes."""
