"""What holds on a GPU: predicted memory beside what CUDA reserves, full fine-tuning beside PEFT, packing, the stock."""
