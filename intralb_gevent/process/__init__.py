"""The state of the whole process: its signals, its log files, and its exit."""
