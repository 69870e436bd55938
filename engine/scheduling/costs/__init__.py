"""What device time costs: the cost table, the partitions and policies derived from it."""
