"""The flow of data, one file for each arrow: from a submitted batch to stored and published bars."""
