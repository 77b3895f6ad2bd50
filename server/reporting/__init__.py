"""Reports of what runs came to, as files: CSV for spreadsheets and HTML for people, which any browser prints as PDF."""
