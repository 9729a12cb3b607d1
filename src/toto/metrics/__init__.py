"""Scores, from predictions and ground truth alone."""
