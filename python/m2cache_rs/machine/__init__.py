"""What this machine is and can do: its processor, memory and disks, and what lies at a path."""
