"""How good labels are: the confusion matrix, scoring a model offline, the report."""
