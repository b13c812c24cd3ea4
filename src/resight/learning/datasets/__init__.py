"""What networks learn from: photos with labels, and the pictures made of them."""
