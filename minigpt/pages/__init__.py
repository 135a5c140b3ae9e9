"""What all pages share: HTML of one strict file, the style, charts, and the table of texts in two languages."""
