"""One command a table: trains what is missing, judges it, and prints the paper's column beside the measured one."""
