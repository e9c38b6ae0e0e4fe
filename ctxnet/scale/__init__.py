"""From one machine to many: campaigns on Ray, and how long they would take."""
