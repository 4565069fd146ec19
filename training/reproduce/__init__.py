"""Make a table or figure of the paper with one command: train, judge, and print the paper's figures beside ours."""
