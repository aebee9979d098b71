"""Rows to tables and figures, and from these to one page: `page.write_report`."""
