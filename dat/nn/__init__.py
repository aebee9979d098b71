"""Network parts shared by models, discretizers and losses."""
