"""Text to better text: generation of the demo corpus now; cleaning and scoring later."""
