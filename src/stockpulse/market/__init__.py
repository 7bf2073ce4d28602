"""The vocabulary that every part shares: symbols, times, intervals, trading calendars, schemas."""
