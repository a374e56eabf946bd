"""What belongs to the process as a whole: its signals, its log files, and its end."""
