"""Reports that people look at: one self-contained HTML page, plots, a row per image, overlays of the worst images.

`WorstImages` watches the images of an evaluation, so that they are read and predicted once and no map is kept:

    worst = WorstImages()
    result = evaluate_probabilities(pairs, mask_threshold=0.5, observe=worst.observe)
    evaluation = NamedEvaluation("tiny", "NUAA-SIRST", {"images": "split val"}, result, worst.images, paths)
    write_report(folder, [evaluation])
"""
