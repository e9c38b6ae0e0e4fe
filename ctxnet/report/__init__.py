"""From records to the paper: tables, figures, the report page. Nothing below this package imports it."""
