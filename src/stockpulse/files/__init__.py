"""Files that are whole or not there, whatever happens while they are written."""
