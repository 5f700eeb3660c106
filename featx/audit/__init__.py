"""What is wrong with the data: copies, labels, outliers, shortcuts."""
