"""Count the requests that are lost while servers behind nginx end, reload and die."""
