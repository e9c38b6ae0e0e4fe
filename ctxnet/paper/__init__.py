"""What presents the results: statistics, tables, figures, pages. It reads records and never measures."""
