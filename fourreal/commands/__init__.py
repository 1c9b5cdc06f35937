"""The commands, one file each; cli.py maps their names."""
