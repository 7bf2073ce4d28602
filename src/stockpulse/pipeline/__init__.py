"""The flow of data between the stages: from a submitted batch to stored and published bars."""
