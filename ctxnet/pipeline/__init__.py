"""What dvc.yaml runs: a typed notebook runner (``notebook``) and the two stages around it (``stages``)."""
