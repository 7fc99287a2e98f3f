"""Estimators and guides side by side on the same sentences: measure, rows, verdict, charts."""
