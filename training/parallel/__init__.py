"""Train on several processes as if they were one."""
