"""Reports that people look at: one self-contained HTML page, plots, a row per image, overlays of the worst images.

A `Recorder` watches the pairs that an evaluation reads, so that images are read and predicted once and no map is kept:

    recorder = Recorder(threshold=0.5)
    result = evaluate_probabilities(recorder.watch(pairs), threshold=0.5)
    evaluation = NamedEvaluation("tiny", "NUAA-SIRST", {"images": "split val"}, result, recorder.recording(), paths)
    write_report(folder, [evaluation])
"""
