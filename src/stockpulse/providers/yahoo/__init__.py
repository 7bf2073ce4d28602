"""Yahoo Finance: bars and latest prices of the chart API, without a key and without a promise."""
