"""What people look at: thumbnails, contact sheets, the wrong pictures."""
