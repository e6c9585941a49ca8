"""What is measured: gradients by step and lag, Jacobian products, gates, weights, and the influence of inputs on outputs."""
