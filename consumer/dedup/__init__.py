"""What was heard before: a lane's slice of the compacted topic."""
