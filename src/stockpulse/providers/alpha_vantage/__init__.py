"""Alpha Vantage: daily and intraday bars and quotes over REST, 25 requests a day on the free plan."""
