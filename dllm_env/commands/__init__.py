"""What single commands of the command line do, where it is more than one call."""
