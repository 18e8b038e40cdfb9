"""What Linux does for us: programs, control groups, confinement, `/proc` of the machine."""
