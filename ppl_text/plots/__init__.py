"""L3: figures of runs, drawn without a display."""
