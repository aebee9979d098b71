"""Evaluations of models as a table and a page, alone or compared."""
